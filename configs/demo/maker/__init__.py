"""The tiny model behind the CPU default: its lists, its tokenizer, its training and its report."""
