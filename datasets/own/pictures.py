"""Suffixes of pictures, and names of leftovers of systems and programs, such as thumbnails and trash."""

import re

EXTENSIONS = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"}

# Names of files and folders that are never pictures of a class, in upper or lower case; NAME* and *NAME are allowed.
# A word that a class could have (Originals, Thumbnails, Recycled, Temp, Backup) must not be here.
LEFTOVERS = {
    "Synology": (
        *("@eaDir", "@tmp", "@sharebin", "@SynoDrive", "@SynologyDrive", "@SynoFinder*", "#recycle", "#snapshot"),
        *("SYNOPHOTO_*", "SYNOPHOTO:*", "SYNOVIDEO_*", "*@SynoEAStream", "*@SynoResource"),
    ),
    "QNAP": ("@Recycle", "@Recently-Snapshot", "@__thumb", ".@__thumb", ".@__*", ".@upload_cache"),
    "NetApp, ZFS, WD and others": (
        *("~snapshot", ".snapshot", ".snapshots", ".zfs", ".wdmc", ".wdphotos", ".recycle", ".!@$recycle", ".@#local"),
        "_NAS_Recycle_*",
    ),
    "Windows": (
        *("$RECYCLE.BIN", "System Volume Information", "Thumbs.db", "Thumbs.db:*", "ehthumbs.db", "ehthumbs_vista.db"),
        *("desktop.ini", "$Extend", "$SysReset", "$WinREAgent", "$Windows.~*", "FOUND.0*", "*:Zone.Identifier"),
        *("AlbumArtSmall.jpg", "AlbumArt_{*"),  # Media Player's
        "S-1-5-*",  # RECYCLER/S-1-5-21-...: a user's trash
    ),
    "virus scanners": ("$AV_ASW", "$AVG"),
    "Office": ("~$*",),  # locks of open documents
    "macOS": (
        *("__MACOSX", "._*", ":2e_*", ".DS_Store", ":2eDS_Store", "Icon\r", ".AppleDouble", ".AppleDB"),
        *(".AppleDesktop", ".Spotlight-V100", ".Trashes", ".Trash", ".fseventsd", ".TemporaryItems"),
        *(".DocumentRevisions-V100", "Network Trash Folder", "TheVolumeSettingsFolder", "*.icloud", "*.photoslibrary"),
    ),
    "Linux": ("lost+found", ".Trash-*", ".thumbnails", ".directory", ".fuse_hidden*", ".nfs0*"),
    "Android and cameras": ("LOST.DIR", ".thumbdata*", ".trashed-*", ".pending-*", "THMBNL"),
    "Picasa, ACDSee, Lightroom, digiKam": (".picasaoriginals", "[Originals]", "*.lrdata", ".dtrash"),
    "Dropbox, Nextcloud, Google Drive, Syncthing, rsync": (
        *(".dropbox.cache", ".sync_*", "._sync_*", ".owncloudsync*", ".tmp.drivedownload", ".tmp.driveupload"),
        *(".stfolder", ".stversions", "~syncthing~*", ".~tmp~"),
    ),
    "developers' programs": (".ipynb_checkpoints", ".git", ".svn", ".hg", "__pycache__"),
}
# folders within a class that often have small copies of its pictures, and that a user may have meant
SMALL_COPIES = {"thumb", "thumbs", "thumbnail", "thumbnails", "_thumbs", "_thumbnails", "preview", "previews"}

_NAMES = {name.lower(): name for names in LEFTOVERS.values() for name in names}
_STARTS = tuple(name[:-1] for name in _NAMES if name.endswith("*"))
_ENDS = tuple(name[1:] for name in _NAMES if name.startswith("*"))


def leftover(name: str) -> str | None:
    """The pattern in LEFTOVERS that matches the name of a file or folder; None for a picture or class of the user."""
    lower = name.lower()
    if lower in _NAMES:
        return _NAMES[lower]
    if lower.startswith(_STARTS):
        return next(_NAMES[f"{start}*"] for start in _STARTS if lower.startswith(start))
    if lower.endswith(_ENDS):
        return next(_NAMES[f"*{end}"] for end in _ENDS if lower.endswith(end))
    return None


def leftover_in(path: str) -> str | None:
    """The pattern in LEFTOVERS that matches a folder or the file of a path, such as @eaDir; None if none does."""
    return next((found for part in re.split(r"[/\\]", path) if (found := leftover(part))), None)
