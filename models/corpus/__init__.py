"""What a whole corpus knows that no single image does: pure functions over stored evidence, no image is read again."""
