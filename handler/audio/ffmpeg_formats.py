"""Which formats FFmpeg may read: its demuxers, its decoders, and the first bytes of common containers.

Knows no file beyond its first bytes.
"""

from functools import cache

# Demuxers that read a single media file of speech or film. Those for playlists, lists of files, devices, pictures,
# text, raw bytes without a header, and video games are left out.
_MP4_DEMUXER = "mov"
_OTHER_DEMUXERS = (
    "aac,ac3,act,aea,aiff,amr,amrnb,amrwb,apac,ape,asf,ast,au,avi,avr,bonk,caf,dhav,dsf,dss,dts,dtshd,dv,eac3,epaf,"
    "flac,flv,g722,gsm,gxf,hcom,iamf,iff,ilbc,ircam,ivf,ivr,kux,latm,live_flv,loas,lvf,m4v,matroska,mlp,mmf,mp3,mpc,"
    "mpc8,mpeg,mpegts,mxf,nistsphere,nsp,nsv,nut,nuv,ogg,oma,osq,pmp,pva,pvf,qcp,qoa,rka,rm,sds,shn,smjpeg,sox,spdif,"
    "swf,tak,truehd,tta,ty,vivo,voc,vqf,w64,wav,wavarc,wsd,wtv,wv,wve,xa,xwma"
)
_SYNTHESIZERS = ("wavesynth",)  # decoders that make sounds of their own
# Types of the boxes with which MP4 and QuickTime files begin.
_MP4_FIRST_BOXES = frozenset(
    b"ftyp styp moov moof mdat free skip wide pnot junk uuid udta prfl ediw pict PICT sidx emsg".split()
)
MATROSKA, FLV, OGG, ASF, CAF = b"\x1aE\xdf\xa3", b"FLV", b"OggS", b"0&\xb2u\x8ef\xcf\x11", b"caff"
REALMEDIA = b".RMF"
_COMMON_MAGIC = (
    b"RIFF",
    b"RIFX",
    b"RF64",
    OGG,
    b"fLaC",
    b"ID3",
    b"wvpk",
    b"TTA1",
    MATROSKA,
    b"#!AMR",
    b"FORM",
    FLV,
    ASF,
    CAF,
    REALMEDIA,
)


def demuxers(head: bytes) -> str:
    """Return the names of the demuxers that may read a file, separated by commas.

    Without MP4 unless the first bytes of the file, `head`, are those of MP4: its boxes are checked before FFmpeg
    reads them.
    """
    return f"{_MP4_DEMUXER},{_OTHER_DEMUXERS}" if is_mp4(head) else _OTHER_DEMUXERS


@cache
def audio_decoders() -> str:
    """Return the names of all audio decoders of FFmpeg, separated by commas.

    With no others on its list, FFmpeg decodes no picture, such as the cover of an album, to find out its size.
    """
    from av.codec.codec import Codec, UnknownCodecError, codecs_available

    names = []
    for name in sorted(codecs_available):
        try:
            codec = Codec(name, "r")
        except UnknownCodecError:  # there is only an encoder of this name
            continue
        if codec.type == "audio" and name not in _SYNTHESIZERS:
            names.append(name)
    return ",".join(names)


def is_mp4(head: bytes) -> bool:
    """Return whether the first bytes of a file are those of an MP4 or QuickTime file."""
    return head[4:8] in _MP4_FIRST_BOXES


def is_mpeg_audio(head: bytes) -> bool:
    """Return whether the first bytes of a file may be those of MP3 or AAC without a container."""
    return head.startswith(b"ID3") or (head[:1] == b"\xff" and head[1:2] >= b"\xe0")


def is_common_container(head: bytes) -> bool:
    """Return whether the first bytes of a file are those of a common media format such as MP4, Ogg or Matroska."""
    return is_mp4(head) or head.startswith(_COMMON_MAGIC)
