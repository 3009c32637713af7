"""
The untyped first packets of a connection: StartupMessage, SSLRequest, GSSENCRequest, CancelRequest.

They have a length and no type byte; an Int32 behind the length is the protocol version, or a code
in its place. Also unfolds the `options` parameter as a server does. Knows nothing of what follows.
"""

from typing import Final, final

from proxy.errors import NotThisProtocol, ProtocolViolation
from proxy.protocol import tags
from proxy.protocol.body import BodyReader, int32

MAX_CANCEL_KEY_BYTES: Final = 256
MIN_CANCEL_KEY_BYTES: Final = 4

_MIN_PACKET_BYTES: Final = 8
_GOODBYE: Final = 0x58000000  # the first four bytes of Terminate
_PROTOCOL_OPTION_PREFIX: Final = b"_pq_."

# Switches of a server process that stand for a setting with their argument
# (documentation, "Short Option Key"); "" marks those that PostgreSQL takes and ignores.
_SWITCHES_WITH_VALUE: Final = {
    "B": "shared_buffers",
    "C": "",
    "D": "",
    "S": "work_mem",
    "W": "post_auth_delay",
    "h": "listen_addresses",
    "k": "unix_socket_directories",
    "N": "max_connections",
    "p": "port",
    "r": "",
    "v": "",
}
_SWITCHES_ALONE: Final = {
    "E": ("", ""),
    "F": ("fsync", "false"),
    "O": ("allow_system_table_mods", "true"),
    "P": ("ignore_system_indexes", "true"),
    "T": ("", ""),
    "b": ("", ""),
    "e": ("datestyle", "euro"),
    "i": ("listen_addresses", "*"),
    "j": ("", ""),
    "l": ("ssl", "true"),
    "n": ("", ""),
    "s": ("log_statement_stats", "true"),
}
_PLAN_SWITCHES: Final = {
    "s": "enable_seqscan",
    "i": "enable_indexscan",
    "o": "enable_indexonlyscan",
    "b": "enable_bitmapscan",
    "t": "enable_tidscan",
    "n": "enable_nestloop",
    "m": "enable_mergejoin",
    "h": "enable_hashjoin",
}


@final
class StartupMessage:
    """
    Who wants what: the first real message of a session.

    protocol         version as sent, 3 << 16 | minor
    raw_parameters   name -> value as sent, protocol options included
    parameters       the same as text (bytes that are not UTF-8 as lone surrogates), without
                     protocol options
    unknown_options  names of the `_pq_.` options: none is known
    """

    __slots__ = ("parameters", "protocol", "raw_parameters", "unknown_options")

    def __init__(self, protocol: int, raw_parameters: dict[bytes, bytes]) -> None:
        self.protocol = protocol
        self.raw_parameters = raw_parameters
        self.parameters: dict[str, str] = {}
        self.unknown_options: list[str] = []
        for name in raw_parameters:
            if name.startswith(_PROTOCOL_OPTION_PREFIX):
                self.unknown_options.append(name.decode("utf-8", "replace"))
            else:
                value = raw_parameters[name].decode("utf-8", "surrogateescape")
                self.parameters[name.decode("utf-8", "surrogateescape")] = value

    @staticmethod
    def build(protocol: int, parameters: dict[str, str]) -> "StartupMessage":
        """From text; neither names nor values may hold a NUL, and no name may be empty."""
        raw: dict[bytes, bytes] = {}
        for name in parameters:
            raw_name = name.encode("utf-8", "surrogateescape")
            value = parameters[name].encode("utf-8", "surrogateescape")
            # SAFETY: a NUL would end the value early, and what follows would be a parameter.
            if not raw_name or b"\x00" in raw_name or b"\x00" in value:
                raise ProtocolViolation(f"startup parameter {name!r} cannot be sent")
            raw[raw_name] = value
        return StartupMessage(protocol, raw)

    def encode(self) -> bytes:
        """The whole packet."""
        pieces: list[bytes] = [int32(self.protocol)]
        for name in self.raw_parameters:
            pieces.append(name)
            pieces.append(b"\x00")
            pieces.append(self.raw_parameters[name])
            pieces.append(b"\x00")
        pieces.append(b"\x00")
        return _packet(b"".join(pieces))


@final
class SSLRequest:
    """Ask for TLS; the answer is one byte, S or N."""

    __slots__ = ()

    def encode(self) -> bytes:
        """The whole packet."""
        return _packet(int32(tags.SSL_REQUEST))


@final
class GSSENCRequest:
    """Ask for GSSAPI encryption; the answer is one byte, G or N."""

    __slots__ = ()

    def encode(self) -> bytes:
        """The whole packet."""
        return _packet(int32(tags.GSSENC_REQUEST))


@final
class CancelRequest:
    """Cancel what another connection runs. There is never an answer."""

    __slots__ = ("process_id", "secret_key")

    def __init__(self, process_id: int, secret_key: bytes) -> None:
        self.process_id = process_id
        self.secret_key = secret_key

    def encode(self) -> bytes:
        """The whole packet."""
        return _packet(int32(tags.CANCEL_REQUEST) + int32(self.process_id) + self.secret_key)

    def __repr__(self) -> str:
        return f"CancelRequest({self.process_id})"


def first_length(buffer: bytes) -> int:
    """
    Length of the packet that a buffer begins with; -1: more bytes are needed to know.

    Raises before anything is allocated for a packet that nobody would take (rule 6).
    """
    if len(buffer) < 4:
        return -1
    length = (buffer[0] << 24) | (buffer[1] << 16) | (buffer[2] << 8) | buffer[3]
    check_length(length)
    return length


def check_length(length: int) -> None:
    """
    Raise ProtocolViolation for what no first packet is long. Rule 6: 08P01, but for a client that left
    while it was connecting, and has said goodbye only.
    """
    if length < _MIN_PACKET_BYTES or length > tags.MAX_STARTUP_BYTES:
        error = "invalid length of startup packet"
        raise NotThisProtocol(error) if length == _GOODBYE else ProtocolViolation(error)


def decode_first(packet: bytes) -> StartupMessage | SSLRequest | GSSENCRequest | CancelRequest:
    """Decode a whole first packet, its length included. Raises only ProtocolViolation."""
    if first_length(packet) != len(packet):
        raise ProtocolViolation("invalid length of startup packet")
    reader = BodyReader(packet[4:])
    code = reader.take_uint32()
    if code == tags.SSL_REQUEST:
        reader.finish()
        return SSLRequest()
    if code == tags.GSSENC_REQUEST:
        reader.finish()
        return GSSENCRequest()
    if code == tags.CANCEL_REQUEST:
        return _cancel_request(reader)
    if code >> 16 != 3:
        raise ProtocolViolation(
            f"unsupported frontend protocol {code >> 16}.{code & 0xFFFF}: "
            f"server supports 3.0 to 3.{tags.PROTOCOL_3_2 & 0xFFFF}",
            "0A000",
        )
    return _startup_message(code, reader)


def _cancel_request(reader: BodyReader) -> CancelRequest:
    if reader.left_bytes() < 4:
        raise NotThisProtocol("invalid length of cancel request packet")
    process_id = reader.take_int32()
    secret_key = reader.take_rest()
    if len(secret_key) < MIN_CANCEL_KEY_BYTES or len(secret_key) > MAX_CANCEL_KEY_BYTES:
        raise NotThisProtocol("invalid length of cancel key")
    return CancelRequest(process_id, secret_key)


def _startup_message(protocol: int, reader: BodyReader) -> StartupMessage:
    rest = reader.take_rest()
    parameters: dict[bytes, bytes] = {}
    pos = 0
    end = len(rest)
    while pos < end and rest[pos] != 0:
        name_end = rest.find(b"\x00", pos)
        value_end = -1 if name_end < 0 else rest.find(b"\x00", name_end + 1)
        if value_end < 0:
            pos = end
            break
        # A repeated name: the last one counts, as with PostgreSQL.
        parameters[rest[pos:name_end]] = rest[name_end + 1 : value_end]
        pos = value_end + 1
    if pos != end - 1:
        raise ProtocolViolation("invalid startup packet layout: expected terminator as last byte")
    if parameters.get(b"user", b"") == b"":
        raise ProtocolViolation("no PostgreSQL user name specified in startup packet", "28000")
    return StartupMessage(protocol, parameters)


def _packet(body: bytes) -> bytes:
    return int32(len(body) + 4) + body


# -- the `options` parameter


def parse_options(text: str) -> list[tuple[str, str]]:
    """
    The settings that an `options` parameter makes, in order: (name, value).

    As a server process reads its command line: `-c name=value`, `-cname=value`, `--name=value`,
    and the old one-letter switches, which are names for settings. A backslash keeps the character
    behind it from ending a word. Raises ProtocolViolation with 42601 for what a server refuses.
    """
    settings: list[tuple[str, str]] = []
    words = split_options(text)
    index = 0
    while index < len(words):
        word = words[index]
        index += 1
        if word == "--":
            # Ends the switches, and a server takes nothing behind them.
            if index < len(words):
                raise _bad_argument(words[index])
            break
        if len(word) < 2 or word[0] != "-":
            raise _bad_argument(word)
        at = 1
        while at < len(word):
            switch = word[at]
            at += 1
            if switch in _SWITCHES_ALONE:
                name, value = _SWITCHES_ALONE[switch]
                if name != "":
                    settings.append((name, value))
                continue
            # All others take an argument: the rest of this word, or else the next one.
            argument = word[at:]
            at = len(word)
            if argument == "":
                if index >= len(words):
                    raise _bad_argument(word)
                argument = words[index]
                index += 1
            name, value = _setting(switch, argument, word)
            if name != "":
                settings.append((name, value))
    return settings


def split_options(text: str) -> list[str]:
    """Split at white space; a backslash takes the next character as it is."""
    words: list[str] = []
    word: list[str] = []
    is_escaped = False
    is_inside = False
    for character in text:
        if is_escaped:
            word.append(character)
            is_escaped = False
        elif character in " \t\n\v\f\r":
            if is_inside:
                words.append("".join(word))
                word = []
                is_inside = False
        else:
            is_inside = True
            if character == "\\":
                is_escaped = True
            else:
                word.append(character)
    if is_inside:
        words.append("".join(word))
    return words


def _setting(switch: str, argument: str, word: str) -> tuple[str, str]:
    if switch == "c" or switch == "-":
        name, equals, value = argument.partition("=")
        if equals == "":
            lead = "-c " if switch == "c" else "--"
            raise ProtocolViolation(f"{lead}{argument} requires a value", "42601")
        return name.replace("-", "_"), value
    if switch in _SWITCHES_WITH_VALUE:
        return _SWITCHES_WITH_VALUE[switch], argument
    if switch == "f" and argument in _PLAN_SWITCHES:
        return _PLAN_SWITCHES[argument], "false"
    if switch == "d":
        return "log_min_messages", "notice" if argument == "0" else "debug" + argument
    if switch == "t":
        if argument.startswith("pa"):
            return "log_parser_stats", "true"
        if argument.startswith("pl"):
            return "log_planner_stats", "true"
        if argument.startswith("e"):
            return "log_executor_stats", "true"
    raise _bad_argument(word)


def _bad_argument(word: str) -> ProtocolViolation:
    return ProtocolViolation(f"invalid command-line argument for server process: {word}", "42601")
