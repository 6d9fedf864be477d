"""What exists, who may serve it, and every change ever made."""
