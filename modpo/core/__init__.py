"""Pure mathematics of MODPO: no Ray, DeepSpeed, transformers, files, logging or config."""
