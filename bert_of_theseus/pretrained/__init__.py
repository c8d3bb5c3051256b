"""A fine-tuned model of Hugging Face in, a smaller one out."""
