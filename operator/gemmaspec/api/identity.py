"""Names by which the API server knows the resource."""

GROUP = "gemmaspec.io"
VERSION = "v1alpha1"
KIND = "GemmaSpecDeploy"
PLURAL = "gemmaspecdeploys"
SINGULAR = "gemmaspecdeploy"
SHORT_NAME = "gsd"
API_VERSION = f"{GROUP}/{VERSION}"
