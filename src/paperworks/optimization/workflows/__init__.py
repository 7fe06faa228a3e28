"""Optimisation of whole workflows: a trace of ordinary Python, and optimisers that read it with any feedback."""

from paperworks.core.lazy import lazy_exports
from paperworks.optimization.workflows import operators as _operators  # nodes get their operators  # noqa: F401

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "answers": ["Answer", "AnswerError", "coerce", "parse_answer"],
        "autodiff": ["AutodiffPropagator", "TraceAutodiff"],
        "bayes": ["BayesOptimizer"],
        "bundles": ["Bundle", "CodeParameter", "bundle"],
        "errors": [
            "ExecutionError", "LLMError", "StepLimitError", "TraceMissingInputsError", "UnsafeCodeError",
        ],
        "feedback": ["Feedback", "read_feedback"],
        "graph": ["GraphPropagator", "Propagator", "SumPropagator", "TraceGraph", "minimal_subgraph"],
        "language": ["OPRO", "LanguageOptimizer", "OptoPrime", "OptoPrimeMulti", "TextGrad"],
        "llm": [
            "CallableLLM", "LanguageModel", "OpenAICompatibleClient", "RecordingLLM", "ReplayLLM", "ScriptedLLM",
        ],
        "modules": ["Module", "model"],
        "nodes": [
            "GRAPH", "ExceptionNode", "MessageNode", "Node", "NodeRegistry", "ParameterNode", "new_graph", "node",
            "stop_tracing", "strict_tracing",
        ],
        "numeric": ["FiniteFeedbackOptimizer", "SymbolicInverse"],
        "optimizer": ["WorkflowOptimizer"],
        "report": ["ProblemReport", "problem_report"],
        "sandbox": ["Sandbox", "check_safe"],
        "search": ["ScoredOptimizer", "SearchOptimizer"],
        "training": ["TrainingResult", "batchify", "train_workflow"],
    },
)  # fmt: skip
