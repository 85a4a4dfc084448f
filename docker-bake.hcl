# The images: `docker buildx bake` builds base and fa2, `docker buildx bake all` also those with a model inside.
# Tags are named as asr-api names its own: VERSION[-fa2][-OWNER-MODEL]. Variables are set in the environment.

variable "REPOSITORY" {
  default = "asr-handler"
}

variable "VERSION" {
  default = "0.1.0"
}

# cu126 runs where the driver is 525 or later, up to Hopper GPUs; cu130 from 580 on. cpu needs no GPU, and openvino is
# cpu with what BACKEND=openvino needs.
variable "TORCH" {
  default = "cu126"
}

# Tags of images for another CUDA than the default one end with its name.
variable "SUFFIX" {
  default = TORCH == "cu126" ? "" : "-${TORCH}"
}

group "default" {
  targets = ["base", "fa2"]
}

group "all" {
  targets = ["base", "fa2", "baked"]
}

target "common" {
  context    = "."
  dockerfile = "Dockerfile"
  args = {
    TORCH = TORCH
  }
}

target "base" {
  inherits = ["common"]
  target   = "base"
  tags     = ["${REPOSITORY}:${VERSION}${SUFFIX}"]
}

target "fa2" {
  inherits = ["common"]
  target   = "fa2"
  tags     = ["${REPOSITORY}:${VERSION}-fa2${SUFFIX}"]
}

target "baked" {
  inherits = ["common"]
  matrix = {
    variant = ["base", "fa2"]
    model = [
      "openai/whisper-large-v3",
      "openai/whisper-large-v3-turbo",
      "distil-whisper/distil-large-v2",
      "distil-whisper/distil-large-v3.5",
    ]
  }
  name   = "${variant}-${replace(replace(model, "/", "-"), ".", "-")}"
  target = "baked"
  args = {
    VARIANT  = variant
    MODEL_ID = model
  }
  tags = ["${REPOSITORY}:${VERSION}${variant == "fa2" ? "-fa2" : ""}-${replace(model, "/", "-")}${SUFFIX}"]
}
