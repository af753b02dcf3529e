"""What the OpenAPI document says beyond the handlers' own signatures: bodies, answers, problems, examples.

python -m service.openapi > docs/openapi.json
"""
