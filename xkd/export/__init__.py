"""Encoders as files for other programs: ONNX, torch.export, and a folder with a model card."""
