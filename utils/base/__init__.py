"""What options and their checks need, and everything else may use. Imports neither torch, numpy nor cv2."""
