"""The evidence engine: records and their bars, runs, measurements, the runner, the store, reports.

Importing it costs little: nothing here imports torch, SciPy or matplotlib before a claim is measured.
"""

from paperworks.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "bars": ["Bar"],
        "display": ["open_display"],
        "entry": ["Entry", "EntryKey", "Provenance"],
        "errors": ["EvidenceError", "UsageError"],
        "events": ["Event", "TaskName"],
        "figures": ["reported_line"],
        "measurement": ["Measurement", "NotAtThisScale", "Table"],
        "record": ["Claim", "Paper", "Peer", "RecordError", "read_paper"],
        "report": ["html_report", "markdown_report", "write_reports"],
        "run": ["Run", "measures", "races"],
        "runner": ["RunReport", "run_papers"],
        "store": ["Evidence", "default_evidence_folder", "read_evidence"],
        "tables": ["judgements_json", "judgements_table"],
        "timing": ["interleaved"],
        "verdicts": ["Decision", "Judgement", "Verdict", "judge", "judgements"],
    },
)
