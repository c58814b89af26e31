from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DescribeRequest(_message.Message):
    __slots__ = ("content_id",)
    CONTENT_ID_FIELD_NUMBER: _ClassVar[int]
    content_id: bytes
    def __init__(self, content_id: _Optional[bytes] = ...) -> None: ...

class DescribeReply(_message.Message):
    __slots__ = ("manifest",)
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    manifest: bytes
    def __init__(self, manifest: _Optional[bytes] = ...) -> None: ...

class HaveRequest(_message.Message):
    __slots__ = ("content_id", "spreads")
    CONTENT_ID_FIELD_NUMBER: _ClassVar[int]
    SPREADS_FIELD_NUMBER: _ClassVar[int]
    content_id: bytes
    spreads: bool
    def __init__(self, content_id: _Optional[bytes] = ..., spreads: _Optional[bool] = ...) -> None: ...

class HaveReply(_message.Message):
    __slots__ = ("chunk_count", "complete", "bitmap", "run_bytes_max")
    CHUNK_COUNT_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    BITMAP_FIELD_NUMBER: _ClassVar[int]
    RUN_BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    chunk_count: int
    complete: bool
    bitmap: bytes
    run_bytes_max: int
    def __init__(self, chunk_count: _Optional[int] = ..., complete: _Optional[bool] = ..., bitmap: _Optional[bytes] = ..., run_bytes_max: _Optional[int] = ...) -> None: ...

class FetchRequest(_message.Message):
    __slots__ = ("request", "content_id", "chunk", "pack", "count", "frame_bytes_max")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    CONTENT_ID_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    PACK_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    FRAME_BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    request: int
    content_id: bytes
    chunk: int
    pack: bytes
    count: int
    frame_bytes_max: int
    def __init__(self, request: _Optional[int] = ..., content_id: _Optional[bytes] = ..., chunk: _Optional[int] = ..., pack: _Optional[bytes] = ..., count: _Optional[int] = ..., frame_bytes_max: _Optional[int] = ...) -> None: ...

class FetchFrame(_message.Message):
    __slots__ = ("request", "status", "offset", "data")
    class Status(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        DATA: _ClassVar[FetchFrame.Status]
        MISSING: _ClassVar[FetchFrame.Status]
        CHANGED: _ClassVar[FetchFrame.Status]
    DATA: FetchFrame.Status
    MISSING: FetchFrame.Status
    CHANGED: FetchFrame.Status
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    request: int
    status: FetchFrame.Status
    offset: int
    data: bytes
    def __init__(self, request: _Optional[int] = ..., status: _Optional[_Union[FetchFrame.Status, str]] = ..., offset: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class PushOffer(_message.Message):
    __slots__ = ("seal_id", "name", "manifest", "expires_ms")
    SEAL_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_MS_FIELD_NUMBER: _ClassVar[int]
    seal_id: bytes
    name: str
    manifest: bytes
    expires_ms: int
    def __init__(self, seal_id: _Optional[bytes] = ..., name: _Optional[str] = ..., manifest: _Optional[bytes] = ..., expires_ms: _Optional[int] = ...) -> None: ...

class PushRequest(_message.Message):
    __slots__ = ("offer", "offset", "data")
    OFFER_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    offer: PushOffer
    offset: int
    data: bytes
    def __init__(self, offer: _Optional[_Union[PushOffer, _Mapping]] = ..., offset: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class PushReply(_message.Message):
    __slots__ = ("committed_bytes", "receipt", "frame_bytes_max")
    COMMITTED_BYTES_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    FRAME_BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    committed_bytes: int
    receipt: bytes
    frame_bytes_max: int
    def __init__(self, committed_bytes: _Optional[int] = ..., receipt: _Optional[bytes] = ..., frame_bytes_max: _Optional[int] = ...) -> None: ...
