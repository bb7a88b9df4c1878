"""Pictures in and out: avatars, image folders, packs and contact sheets. uint8 (H, W, C) arrays; no torch."""
