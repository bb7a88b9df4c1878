"""Between fog and cloud: cohorts' noised sums go up, acknowledgements come down, by stock Flower (DESIGN §1).

``port`` says what is asked and answered, with no word of Flower; only ``records``, ``link``, ``client_app`` and
``server_app`` import it. ``collector`` is the cloud's loop, ``loopback`` the fog's door, ``inbox`` where sums wait for
the cloud, ``identity`` its keys and certificates. Nothing here imports torch.
"""
