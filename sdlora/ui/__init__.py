"""The web page. The only Gradio in the project; no torch, no diffusers: it reads stores and writes jobs.

Before Gradio is imported its environment is narrowed: no telemetry, and no variable that would open the page wider
(GRADIO_SHARE, GRADIO_ALLOWED_PATHS, GRADIO_SERVER_NAME...) than the command line said.
"""

import os

for name in [name for name in os.environ if name.startswith("GRADIO_") and name != "GRADIO_TEMP_DIR"]:
    del os.environ[name]
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
