"""How results can be printed; known without what prints them."""

from __future__ import annotations

from typing import Literal

ReportFormat = Literal["table", "markdown", "json", "csv", "html"]
ProbeFormat = Literal["table", "json", "csv"]
EvaluationFormat = Literal["table", "json"]
