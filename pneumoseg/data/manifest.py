"""The table of a data set's images, as Jupyter shows it."""

import html

import pandas as pd

from pneumoseg.data.patients import describe_patients, doubts_about_patients

_SHOWN = ("image_id", "has_pneumothorax", "area_px", "view", "sex", "age", "rows", "columns")


class Manifest(pd.DataFrame):
    """A manifest: a pandas table with one row an image, that shows itself without its long columns.

    What is made of it by pandas, such as some of its rows, is one, too.
    """

    @property
    def _constructor(self) -> type["Manifest"]:
        return Manifest

    def _repr_html_(self) -> str:
        columns = [name for name in _SHOWN if name in self.columns]
        if columns != list(_SHOWN) or not {"patient_id", "patient_source"} <= set(self.columns):
            return str(super()._repr_html_())
        table = pd.DataFrame(self[columns]).to_html(max_rows=10, border=0)
        hidden = ", ".join(name for name in self.columns if name not in columns)
        return f"<p><b>Manifest</b>: {html.escape(self.summary())}</p>{table}<p>Not shown: {html.escape(hidden)}</p>"

    def summary(self) -> str:
        """Images, positives and patients in words."""
        positives = int(self["has_pneumothorax"].sum())
        share = f" ({positives / len(self):.0%})" if len(self) else ""
        words = [f"{len(self)} images, {positives} with a pneumothorax{share}, {describe_patients(self)}"]
        return "; ".join(words + doubts_about_patients(self))
