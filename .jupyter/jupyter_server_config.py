"Read by `make lab`: every save cleans the notebook, so that a diff shows what was changed and nothing else."
from nbdev.clean import clean_jupyter

c.ContentsManager.pre_save_hook = clean_jupyter  # noqa: F821
