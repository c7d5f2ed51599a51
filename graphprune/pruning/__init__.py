"""The plug-in kinds, what they measure, and the loop that prunes."""
