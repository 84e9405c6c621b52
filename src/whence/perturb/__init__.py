"""Methods that call the model many times, and the loop that they share."""
