"""The evidence engine: records and their bars, runs, measurements, the runner, the store, reports.

Importing it costs little: nothing here imports torch, SciPy or matplotlib before a claim is measured.
"""

from paperworks.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "bars": ["Bar"],
        "comparison": ["ComparedPaper", "compare_paper"],
        "display": ["open_display"],
        "entry": ["Entry", "Provenance", "Value"],
        "errors": ["EvidenceError", "UsageError"],
        "estimates": [
            "Estimate", "bootstrap", "difference", "every", "exact", "greatest", "least", "magnitude", "mean", "median",
            "normal", "proportion", "ratio", "statistic",
        ],
        "events": ["Event", "TaskName"],
        "figures": ["reported_line"],
        "measurement": ["Measurement", "NotAtThisScale", "Table"],
        "recordings": ["AudibleMeasurement", "Recording"],
        "notebook_results": ["load_ipython_extension"],
        "record": ["Claim", "Paper", "Peer", "RecordError", "read_paper"],
        "report": ["write_reports"],
        "results": ["PaperResults", "results_of"],
        "run": ["Run", "measures", "races"],
        "runner": ["RunReport", "run_papers"],
        "same": ["Compared", "compare"],
        "store": ["Evidence", "committed_folder", "own_folder", "read_evidence"],
        "tables": ["claims_json", "claims_table"],
        "timing": ["Times", "interleaved"],
        "verdicts": ["Decision", "Verdict", "judge", "outdated"],
        "views": ["ClaimView", "ValueView", "paper_views", "view"],
    },
)  # fmt: skip
