"""Fine-tuning: an encoder and a classifier trained on labeled clips of one modality (supplement A.6)."""
