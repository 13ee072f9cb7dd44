"""Published weights in, trained weights out. Both know networks and files; neither knows a `Run`.

`reading` opens a foreign file without running anything in it, `recognise` identifies the network, `importing` makes a run of
it and describes its preprocessing, `starting` begins a training from it. `formats` lists what `export` and `hub` write.
"""
