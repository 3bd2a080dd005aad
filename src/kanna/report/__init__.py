"""Reports of a comparison: one HTML page, the numbers as JSON, a model card beside each artefact.

They are drawn from plain dictionaries (`CompareResult.to_dict()`), so a saved report.json can be
drawn again.
"""

from kanna.report.adapt_page import adapt_page
from kanna.report.card import model_card
from kanna.report.page import html_page
from kanna.report.write import write, write_page

__all__ = ["adapt_page", "html_page", "model_card", "write", "write_page"]
