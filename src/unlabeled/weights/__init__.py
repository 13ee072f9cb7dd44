"""Published weights in, trained weights out. Both know networks and files; neither knows a `Run`.

`reading` opens a foreign file without running anything in it, `kinds` says whose weights it holds, `importing` makes a run
of them. `export` writes the formats, `preprocessing` says what an image has to go through before them.
"""
