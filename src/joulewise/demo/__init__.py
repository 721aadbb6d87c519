"""A trained network and labelled images that ship with joulewise."""
