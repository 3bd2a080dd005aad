"""OCI registries: models as CNCF ModelPack artefacts, pushed and pulled."""
