//! Names and numbers of the contract.

/// What a call is answered (`proxy_status_t`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Status {
    /// It was done.
    Ok = 0,
    /// There is no such thing.
    NotFound = 1,
    /// A number that means nothing, or that cannot be done now.
    BadArgument = 2,
    /// A map cannot be read.
    SerializationFailure = 3,
    /// An upstream that is not known, in calls of gRPC.
    ParseFailure = 4,
    /// An address or length beyond the guest's memory.
    InvalidMemoryAccess = 6,
    /// Nothing is in the queue.
    Empty = 7,
    /// Somebody else has changed it meanwhile.
    CasMismatch = 8,
    /// A quota is used up.
    InternalFailure = 10,
    /// It is not served.
    Unimplemented = 12,
}

/// Numbers of WASI (`wasi_errno_t`).
pub mod errno {
    /// It was done.
    pub const SUCCESS: u32 = 0;
    /// No such descriptor.
    pub const BADF: u32 = 8;
    /// An address beyond the guest's memory.
    pub const FAULT: u32 = 21;
    /// Too much is asked for.
    pub const INVAL: u32 = 28;
    /// It does not exist here.
    pub const NOSYS: u32 = 52;
    /// No such clock.
    pub const NOTSUP: u32 = 58;
}

/// Exports by which a module says that it is of this contract.
pub const VERSIONS: [&str; 2] = ["proxy_abi_version_0_2_0", "proxy_abi_version_0_2_1"];
/// How the mark of any version begins.
pub const VERSION_MARK: &str = "proxy_abi_version_";

/// Where a module's imports come from.
pub const ENV: &str = "env";
/// The same for what compilers add; the older name means the same functions.
pub const WASI: [&str; 2] = ["wasi_snapshot_preview1", "wasi_unstable"];

/// A number as it is handed over: all are 32 bits, but for those of [`Kind::Long`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 32 bits.
    Word,
    /// 64 bits.
    Long,
}

macro_rules! functions {
    ($($variant:ident = $name:literal ($($kind:ident),*)),* $(,)?) => {
        /// A function of the host.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Function {
            $(#[doc = concat!("`", $name, "`")] $variant),*
        }

        /// Every function there is.
        pub const FUNCTIONS: &[Function] = &[$(Function::$variant),*];

        impl Function {
            /// Its name as an import.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            /// What it takes.
            pub const fn parameters(self) -> &'static [Kind] {
                match self { $(Self::$variant => &[$(Kind::$kind),*]),* }
            }
        }
    };
}

functions! {
    Log = "proxy_log" (Word, Word, Word),
    GetLogLevel = "proxy_get_log_level" (Word),
    GetCurrentTime = "proxy_get_current_time_nanoseconds" (Word),
    SetTickPeriod = "proxy_set_tick_period_milliseconds" (Word),
    GetProperty = "proxy_get_property" (Word, Word, Word, Word),
    SetProperty = "proxy_set_property" (Word, Word, Word, Word),
    GetBuffer = "proxy_get_buffer_bytes" (Word, Word, Word, Word, Word),
    SetBuffer = "proxy_set_buffer_bytes" (Word, Word, Word, Word, Word),
    GetBufferStatus = "proxy_get_buffer_status" (Word, Word, Word),
    GetMapPairs = "proxy_get_header_map_pairs" (Word, Word, Word),
    SetMapPairs = "proxy_set_header_map_pairs" (Word, Word, Word),
    GetMapSize = "proxy_get_header_map_size" (Word, Word),
    GetMapValue = "proxy_get_header_map_value" (Word, Word, Word, Word, Word),
    AddMapValue = "proxy_add_header_map_value" (Word, Word, Word, Word, Word),
    ReplaceMapValue = "proxy_replace_header_map_value" (Word, Word, Word, Word, Word),
    RemoveMapValue = "proxy_remove_header_map_value" (Word, Word, Word),
    ContinueStream = "proxy_continue_stream" (Word),
    CloseStream = "proxy_close_stream" (Word),
    SendLocalResponse = "proxy_send_local_response" (Word, Word, Word, Word, Word, Word, Word, Word),
    GetStatus = "proxy_get_status" (Word, Word, Word),
    HttpCall = "proxy_http_call" (Word, Word, Word, Word, Word, Word, Word, Word, Word, Word),
    GrpcCall = "proxy_grpc_call"
        (Word, Word, Word, Word, Word, Word, Word, Word, Word, Word, Word, Word),
    GrpcStream = "proxy_grpc_stream" (Word, Word, Word, Word, Word, Word, Word, Word, Word),
    GrpcSend = "proxy_grpc_send" (Word, Word, Word, Word),
    GrpcCancel = "proxy_grpc_cancel" (Word),
    GrpcClose = "proxy_grpc_close" (Word),
    GetSharedData = "proxy_get_shared_data" (Word, Word, Word, Word, Word),
    SetSharedData = "proxy_set_shared_data" (Word, Word, Word, Word, Word),
    RegisterQueue = "proxy_register_shared_queue" (Word, Word, Word),
    ResolveQueue = "proxy_resolve_shared_queue" (Word, Word, Word, Word, Word),
    Enqueue = "proxy_enqueue_shared_queue" (Word, Word, Word),
    Dequeue = "proxy_dequeue_shared_queue" (Word, Word, Word),
    DefineMetric = "proxy_define_metric" (Word, Word, Word, Word),
    RecordMetric = "proxy_record_metric" (Word, Long),
    IncrementMetric = "proxy_increment_metric" (Word, Long),
    GetMetric = "proxy_get_metric" (Word, Word),
    SetEffectiveContext = "proxy_set_effective_context" (Word),
    Done = "proxy_done" (),
    CallForeignFunction = "proxy_call_foreign_function" (Word, Word, Word, Word, Word, Word),
    PthreadEqual = "pthread_equal" (Word, Word),
    MemoryGrew = "emscripten_notify_memory_growth" (Word),
    FdWrite = "fd_write" (Word, Word, Word, Word),
    FdRead = "fd_read" (Word, Word, Word, Word),
    FdSeek = "fd_seek" (Word, Long, Word, Word),
    FdClose = "fd_close" (Word),
    FdStat = "fd_fdstat_get" (Word, Word),
    FdStatSetFlags = "fd_fdstat_set_flags" (Word, Word),
    FdPrestat = "fd_prestat_get" (Word, Word),
    FdPrestatName = "fd_prestat_dir_name" (Word, Word, Word),
    ClockTime = "clock_time_get" (Word, Long, Word),
    ClockResolution = "clock_res_get" (Word, Word),
    Random = "random_get" (Word, Word),
    EnvironSizes = "environ_sizes_get" (Word, Word),
    Environ = "environ_get" (Word, Word),
    ArgsSizes = "args_sizes_get" (Word, Word),
    Args = "args_get" (Word, Word),
    Yield = "sched_yield" (),
    Poll = "poll_oneoff" (Word, Word, Word, Word),
    Exit = "proc_exit" (Word),
}

impl Function {
    /// Is it one that compilers add?
    pub fn is_wasi(self) -> bool {
        let of_c = matches!(self, Self::PthreadEqual | Self::MemoryGrew);
        !of_c && !self.name().starts_with("proxy_")
    }

    /// The modules it is imported from.
    pub fn modules(self) -> &'static [&'static str] {
        if self.is_wasi() { &WASI } else { &[ENV] }
    }

    /// Does it answer a number? All but two do.
    pub fn answers(self) -> bool {
        !matches!(self, Self::Exit | Self::MemoryGrew)
    }

    /// The function of an import.
    pub fn find(module: &str, name: &str) -> Option<Self> {
        let function = *FUNCTIONS.iter().find(|function| function.name() == name)?;
        function.modules().contains(&module).then_some(function)
    }
}

/// Which header map is meant (`proxy_map_type_t`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Map {
    /// 0
    RequestHeaders,
    /// 1
    RequestTrailers,
    /// 2
    ResponseHeaders,
    /// 3
    ResponseTrailers,
    /// 4–7: answers to calls.
    OfCall,
}

impl Map {
    pub(crate) fn of(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::RequestHeaders,
            1 => Self::RequestTrailers,
            2 => Self::ResponseHeaders,
            3 => Self::ResponseTrailers,
            4..=7 => Self::OfCall,
            _ => return None,
        })
    }
}

/// Which buffer is meant (`proxy_buffer_type_t`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Buffer {
    /// 0
    RequestBody,
    /// 1
    ResponseBody,
    /// 6
    VmConfiguration,
    /// 7
    PluginConfiguration,
    /// Of TCP streams, and answers to calls.
    Other,
}

impl Buffer {
    pub(crate) fn of(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::RequestBody,
            1 => Self::ResponseBody,
            6 => Self::VmConfiguration,
            7 => Self::PluginConfiguration,
            2..=5 | 8 => Self::Other,
            _ => return None,
        })
    }
}
