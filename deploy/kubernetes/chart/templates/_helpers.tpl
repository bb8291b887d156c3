{{- define "weir.objects" -}}
{{- if .Values.ingress.enabled }}/etc/weir/objects/ingress.yaml{{ end }}
{{- if and .Values.ingress.enabled .Values.gateway.enabled }},{{ end }}
{{- if .Values.gateway.enabled }}/etc/weir/objects/gateway.yaml{{ end }}
{{- end }}
{{- define "weir.primary" -}}
http://{{ .Release.Name }}-control-{{ .n }}.{{ .Release.Name }}-control.{{ .Release.Namespace }}.svc:2380
{{- end }}
{{- define "weir.bounds" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
{{- end }}
