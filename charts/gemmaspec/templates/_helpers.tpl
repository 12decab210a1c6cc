{{- define "gemmaspec.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- /* gemmaspec-operator for a release of that name, as in manifests/install. */ -}}
{{- define "gemmaspec.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains (include "gemmaspec.name" .) .Release.Name -}}
{{- printf "%s-operator" (.Release.Name | trunc 50 | trimSuffix "-") -}}
{{- else -}}
{{- printf "%s-%s-operator" (.Release.Name | trunc 30 | trimSuffix "-") (include "gemmaspec.name" . | trunc 20 | trimSuffix "-") -}}
{{- end -}}
{{- end -}}

{{- define "gemmaspec.selectorLabels" -}}
app.kubernetes.io/name: {{ include "gemmaspec.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "gemmaspec.labels" -}}
{{ include "gemmaspec.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end -}}

{{- define "gemmaspec.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (.Values.serviceAccount.create | ternary (include "gemmaspec.fullname" .) "default") -}}
{{- end -}}

{{- define "gemmaspec.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{- define "gemmaspec.keySecret" -}}
{{- .Values.key.existingSecret | default (printf "%s-key" (include "gemmaspec.fullname" .)) -}}
{{- end -}}
