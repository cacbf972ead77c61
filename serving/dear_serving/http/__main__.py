"""Prints the OpenAPI document; needs no engine, no model and no settings: ``python -m dear_serving.http``."""

import json
import sys

from dear_serving.http.app import router
from dear_serving.http.openapi import document

if __name__ == "__main__":
    sys.stdout.write(json.dumps(document(router.routes), indent=1, ensure_ascii=False) + "\n")
