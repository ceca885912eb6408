"""The Hugging Face Hub: pushing runs and loading them back."""
