"""Reverse distillation (RD4AD), reproduced: a thin library of the model and the metrics.

Data flows one way, and imports follow it:

    parameters cell -> config.Config        what one run is
                    -> data.load            images, labels, masks (NumPy)
                    -> model.build          teacher, OCBE, student
                    -> fit.fit              losses; sees training images only
                    -> score.score          anomaly maps (NumPy; torch ends here)
                    -> metrics              AUROC, AP, both AU-PROs
                    -> results.write_run    results/<profile>/runs/<run id>/result.json
                    -> plots, results       tables and figures, from run files only
"""

__version__ = "0.2.0"
