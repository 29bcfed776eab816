"""From run files to tables, figures and the page. Torch is not imported here."""
