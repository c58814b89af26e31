from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FindRecordsRequest(_message.Message):
    __slots__ = ("key", "kinds", "words", "cursor", "withdrawn", "records_max", "prefix")
    KEY_FIELD_NUMBER: _ClassVar[int]
    KINDS_FIELD_NUMBER: _ClassVar[int]
    WORDS_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    WITHDRAWN_FIELD_NUMBER: _ClassVar[int]
    RECORDS_MAX_FIELD_NUMBER: _ClassVar[int]
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    kinds: _containers.RepeatedScalarFieldContainer[int]
    words: _containers.RepeatedScalarFieldContainer[str]
    cursor: bytes
    withdrawn: bool
    records_max: int
    prefix: str
    def __init__(self, key: _Optional[bytes] = ..., kinds: _Optional[_Iterable[int]] = ..., words: _Optional[_Iterable[str]] = ..., cursor: _Optional[bytes] = ..., withdrawn: _Optional[bool] = ..., records_max: _Optional[int] = ..., prefix: _Optional[str] = ...) -> None: ...

class FindRecordsReply(_message.Message):
    __slots__ = ("records",)
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    records: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, records: _Optional[_Iterable[bytes]] = ...) -> None: ...

class StoreRecordsRequest(_message.Message):
    __slots__ = ("message_id", "records")
    MESSAGE_ID_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    message_id: bytes
    records: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, message_id: _Optional[bytes] = ..., records: _Optional[_Iterable[bytes]] = ...) -> None: ...

class StoreRecordsReply(_message.Message):
    __slots__ = ("verdicts", "signature")
    class Verdict(_message.Message):
        __slots__ = ("verdict", "sequence", "our_ms")
        VERDICT_FIELD_NUMBER: _ClassVar[int]
        SEQUENCE_FIELD_NUMBER: _ClassVar[int]
        OUR_MS_FIELD_NUMBER: _ClassVar[int]
        verdict: int
        sequence: int
        our_ms: int
        def __init__(self, verdict: _Optional[int] = ..., sequence: _Optional[int] = ..., our_ms: _Optional[int] = ...) -> None: ...
    VERDICTS_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    verdicts: _containers.RepeatedCompositeFieldContainer[StoreRecordsReply.Verdict]
    signature: bytes
    def __init__(self, verdicts: _Optional[_Iterable[_Union[StoreRecordsReply.Verdict, _Mapping]]] = ..., signature: _Optional[bytes] = ...) -> None: ...
