"""Forms: graphs that compute what another does, the faster for one length of text or for whole texts."""
