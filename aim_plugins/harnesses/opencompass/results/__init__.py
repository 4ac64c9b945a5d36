"""What OpenCompass's finished cells say: scores, tables, texts and the sweep's folder."""
