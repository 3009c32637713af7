"""Hypothesis strategies for messages of the protocol, and for bytes that are none."""

import string

from hypothesis import strategies as st

from proxy.protocol import frontend, startup
from proxy.protocol.backend import Column

cstrings = st.binary(max_size=40).map(lambda data: data.replace(b"\x00", b"n"))
"""What a String of the protocol can hold."""

names = st.sampled_from([b"", b"s1", b"caf\xc3\xa9", b"\xff"]) | cstrings
uint16s = st.integers(0, 0xFFFF)
int16s = st.integers(-0x8000, 0x7FFF)
int32s = st.integers(-0x80000000, 0x7FFFFFFF)
oids = st.integers(0, 0xFFFFFFFF)
values = st.none() | st.binary(max_size=60)
value_lists = st.lists(values, max_size=6)
statuses = st.sampled_from(b"ITE")

garbage = st.binary(max_size=120)
"""Any bytes."""

texts = st.text(max_size=40)
passwords = st.text(min_size=1, max_size=20).filter(lambda text: "\x00" not in text)


def _formats_for(count: int) -> st.SearchStrategy[list[int]]:
    """Format codes as Bind and FunctionCall may have them: none, one, or one for each."""
    return st.one_of(
        st.just([]),
        st.lists(uint16s, min_size=1, max_size=1),
        st.lists(uint16s, min_size=count, max_size=count),
    )


@st.composite
def binds(draw: st.DrawFn) -> frontend.Bind:
    """Bind messages."""
    parameters = draw(value_lists)
    return frontend.Bind(
        draw(names),
        draw(names),
        draw(_formats_for(len(parameters))),
        parameters,
        draw(st.lists(uint16s, max_size=4)),
    )


@st.composite
def function_calls(draw: st.DrawFn) -> frontend.FunctionCall:
    """FunctionCall messages."""
    arguments = draw(value_lists)
    return frontend.FunctionCall(
        draw(oids), draw(_formats_for(len(arguments))), arguments, draw(uint16s)
    )


kinds = st.sampled_from([frontend.STATEMENT, frontend.PORTAL])
queries = st.builds(frontend.Query, cstrings)
parses = st.builds(frontend.Parse, names, cstrings, st.lists(oids, max_size=6))
describes = st.builds(frontend.Describe, kinds, names)
executes = st.builds(frontend.Execute, names, int32s)
closes = st.builds(frontend.Close, kinds, names)
copy_datas = st.builds(frontend.CopyData, garbage)
copy_fails = st.builds(frontend.CopyFail, cstrings)
password_messages = st.builds(frontend.PasswordMessage, cstrings)
sasl_initial_responses = st.builds(frontend.SASLInitialResponse, cstrings, values)
sasl_responses = st.builds(frontend.SASLResponse, garbage)

columns = st.builds(
    Column,
    name=cstrings,
    type_oid=oids,
    type_size=int16s,
    format=int16s,
    table_oid=oids,
    attribute_number=int16s,
    type_modifier=int32s,
)

parameter_names = cstrings.filter(lambda name: name != b"")


@st.composite
def startup_messages(draw: st.DrawFn) -> startup.StartupMessage:
    """StartupMessages of any minor version, with a user."""
    parameters = draw(st.dictionaries(parameter_names, cstrings, max_size=6))
    parameters[b"user"] = draw(parameter_names)
    return startup.StartupMessage((3 << 16) | draw(uint16s), parameters)


cancel_requests = st.builds(startup.CancelRequest, int32s, st.binary(min_size=4, max_size=256))

option_words = st.text(
    alphabet=string.ascii_letters + string.digits + "=-_.,'\" \\\t\né", max_size=30
)
"""Texts that look like an `options` parameter."""
