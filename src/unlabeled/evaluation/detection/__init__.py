"""Parts of the detection protocol `evaluation/voc_detection.py`: boxes, proposals, networks."""
