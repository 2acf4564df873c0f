"""What a model yaml says, checked."""
