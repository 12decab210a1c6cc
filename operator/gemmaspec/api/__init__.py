"""The resource ``GemmaSpecDeploy``: pydantic models that are the single source of the CRD and its reference."""

from gemmaspec.api.identity import API_VERSION, GROUP, KIND, PLURAL, SHORT_NAME, VERSION
from gemmaspec.api.spec import GemmaSpecDeploySpec
from gemmaspec.api.status import GemmaSpecDeployStatus

__all__ = [
    "API_VERSION",
    "GROUP",
    "KIND",
    "PLURAL",
    "SHORT_NAME",
    "VERSION",
    "GemmaSpecDeploySpec",
    "GemmaSpecDeployStatus",
]
