"""Reverse distillation (RD4AD), reproduced: a thin library of the model and the metrics.

Data flows one way, and imports follow it:

    parameters cell -> config.Config        what one run is
                    -> data.load            images, labels, masks (NumPy)
                    -> model.build          teacher, OCBE, student
                    -> fit.fit              losses; sees training images only
                    -> score.score          anomaly maps (NumPy; torch ends here)
                    -> metrics              AUROC, AP, both AU-PROs
                    -> run.record           results/<profile>/runs/<run id>/result.json
                    -> report.runs          one pandas table of all runs, for the table notebooks

The files of this folder are the paper; `run`, `report`, `batch` and `own` serve it, and it imports nothing from them.
"""

__version__ = "0.6.1"
