//! The functions of the contract. Each reads what the guest names in its memory, does what it
//! may, and says what is to be answered.

use crate::{
    Fields, LocalReply, Outside, Vm,
    abi::{Buffer, Function, Map, Status},
    attributes::property,
    exchange::{Exchange, Side},
    memory::{Beyond, Memory},
    vm::Level,
    wasi,
};

/// What a call comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The number the guest gets.
    Number(u32),
    /// Bytes for memory of the guest's own making; where it wants to read their address and
    /// length. Both places are in its memory. No bytes need no memory: the address is 0 then.
    Give {
        /// What it gets.
        bytes: Vec<u8>,
        /// Where their address goes.
        at: u32,
        /// Where their length goes.
        length_at: u32,
    },
    /// It wants to end.
    Exit(u32),
}

impl From<Status> for Answer {
    fn from(status: Status) -> Self {
        Self::Number(status as u32)
    }
}

impl From<Beyond> for Status {
    fn from(_: Beyond) -> Self {
        Self::InvalidMemoryAccess
    }
}

/// Longest body a filter may make of a shorter one, bytes.
const BODY: usize = 1 << 20;

/// What a function comes to: an answer, or why it is none.
type Called = Result<Answer, Status>;

const OK: Called = Ok(Answer::Number(Status::Ok as u32));

/// A number of the contract from a parameter: it reads the lower half.
#[allow(
    clippy::cast_possible_truncation,
    reason = "the contract has 32 bits here"
)]
const fn word(argument: u64) -> u32 {
    argument as u32
}

impl Vm {
    /// Does what a guest asks. `arguments` are as many as the function takes; missing ones
    /// are zeros.
    pub fn call(
        &mut self,
        function: Function,
        arguments: &[u64],
        memory: &mut [u8],
        outside: &mut dyn Outside,
    ) -> Answer {
        let long = |n: usize| arguments.get(n).copied().unwrap_or_default();
        let a = |n: usize| word(long(n));
        let mut memory = Memory(memory);
        let memory = &mut memory;
        if function.is_wasi() {
            return wasi::call(function, &a, memory, outside);
        }
        let called = match function {
            Function::Log => log((a(0), a(1), a(2)), memory, outside),
            Function::GetLogLevel => put(memory, a(0), &(outside.log_level() as u32).to_le_bytes()),
            Function::GetCurrentTime => put(memory, a(0), &outside.now_ns().to_le_bytes()),
            Function::SetTickPeriod => {
                self.tick_ms = a(0);
                OK
            }
            Function::GetProperty => self.get_property((a(0), a(1)), (a(2), a(3)), memory),
            Function::SetProperty => self.set_property((a(0), a(1)), (a(2), a(3)), memory),
            Function::GetBuffer => self.get_buffer(a(0), (a(1), a(2)), (a(3), a(4)), memory),
            Function::SetBuffer => self.set_buffer(a(0), (a(1), a(2)), (a(3), a(4)), memory),
            Function::GetBufferStatus => self.buffer_status(a(0), (a(1), a(2)), memory),
            Function::GetMapPairs => self.get_pairs(a(0), (a(1), a(2)), memory),
            Function::SetMapPairs => self.set_pairs(a(0), (a(1), a(2)), memory),
            Function::GetMapSize => self.map_size(a(0), a(1), memory),
            Function::GetMapValue => self.get_field(a(0), (a(1), a(2)), (a(3), a(4)), memory),
            Function::AddMapValue => {
                self.change_field(a(0), (a(1), a(2)), (a(3), a(4)), memory, Fields::add)
            }
            Function::ReplaceMapValue => {
                self.change_field(a(0), (a(1), a(2)), (a(3), a(4)), memory, Fields::replace)
            }
            Function::RemoveMapValue => self.remove_field(a(0), (a(1), a(2)), memory),
            Function::ContinueStream => self.continue_stream(a(0)),
            Function::CloseStream => self.close_stream(a(0)),
            Function::SendLocalResponse => self.local_reply(&a, memory),
            Function::GetStatus => get_status((a(0), a(1), a(2)), memory),
            // No upstream is known by any name.
            Function::HttpCall => no_call(memory, &[(0, 1), (2, 3), (4, 5), (6, 7)], a(9), &a)
                .map_or_else(Err, |()| Err(Status::BadArgument)),
            Function::GrpcCall => {
                no_call(memory, &[(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)], a(11), &a)
                    .map_or_else(Err, |()| Err(Status::ParseFailure))
            }
            Function::GrpcStream => no_call(memory, &[(0, 1), (2, 3), (4, 5), (6, 7)], a(8), &a)
                .map_or_else(Err, |()| Err(Status::ParseFailure)),
            Function::GrpcSend | Function::GrpcCancel | Function::GrpcClose => {
                Err(Status::NotFound)
            }
            Function::GetSharedData => self.get_shared((a(0), a(1)), (a(2), a(3)), a(4), memory),
            Function::SetSharedData => {
                let imagined = outside.is_imagined();
                self.set_shared((a(0), a(1)), (a(2), a(3)), a(4), memory, imagined)
            }
            Function::RegisterQueue => self.register_queue((a(0), a(1)), a(2), memory),
            Function::ResolveQueue => self.resolve_queue((a(0), a(1)), (a(2), a(3)), a(4), memory),
            Function::Enqueue => {
                let imagined = outside.is_imagined();
                self.enqueue(a(0), (a(1), a(2)), memory, imagined)
            }
            Function::Dequeue => self.dequeue(a(0), (a(1), a(2)), memory),
            Function::DefineMetric => self.define_metric(a(0), (a(1), a(2)), a(3), memory),
            Function::RecordMetric if outside.is_imagined() => OK,
            Function::IncrementMetric if outside.is_imagined() => OK,
            Function::RecordMetric => self.common.record(a(0), long(1)).map(|change| {
                outside.metric(change);
                Status::Ok.into()
            }),
            Function::IncrementMetric => {
                let by = long(1).cast_signed();
                self.common.increment(a(0), by).map(|change| {
                    outside.metric(change);
                    Status::Ok.into()
                })
            }
            Function::GetMetric => self
                .common
                .metric(a(0))
                .and_then(|value| put(memory, a(1), &value.to_le_bytes())),
            Function::SetEffectiveContext => self.set_effective(a(0)),
            Function::Done => self.say_done(),
            Function::CallForeignFunction => memory
                .bytes(a(0), a(1))
                .and_then(|_| memory.bytes(a(2), a(3)))
                .map_err(Status::from)
                // There is none.
                .map_or_else(Err, |_| Err(Status::NotFound)),
            Function::PthreadEqual => Ok(Answer::Number(u32::from(a(0) == a(1)))),
            Function::MemoryGrew => OK,
            // Of WASI: answered above.
            _ => Err(Status::Unimplemented),
        };
        called.unwrap_or_else(Answer::from)
    }

    fn get_property(&mut self, path: (u32, u32), to: (u32, u32), memory: &Memory<'_>) -> Called {
        let path = memory.bytes(path.0, path.1)?;
        let exchange = self.exchanges.get(&self.context());
        let found = property(path, &self.names, exchange).ok_or(Status::NotFound)?;
        give(memory, found, to)
    }

    fn set_property(&mut self, path: (u32, u32), value: (u32, u32), memory: &Memory<'_>) -> Called {
        let path = memory.bytes(path.0, path.1)?;
        let value = memory.bytes(value.0, value.1)?;
        let exchange = self.here().ok_or(Status::NotFound)?;
        match exchange.set_property(path, value) {
            true => OK,
            false => Err(Status::InternalFailure),
        }
    }

    /// The bytes of a buffer that can be read now.
    fn buffer(&self, number: u32) -> Result<&[u8], Status> {
        let exchange = || self.exchanges.get(&self.context());
        let body = |side: &'_ dyn Fn(&Exchange) -> &Side| -> Result<(), Status> {
            let exchange = exchange().ok_or(Status::NotFound)?;
            match side(exchange).open.body {
                true => Ok(()),
                false => Err(Status::NotFound),
            }
        };
        match Buffer::of(number).ok_or(Status::BadArgument)? {
            Buffer::VmConfiguration if self.configuring => Ok(&self.configuration.vm),
            Buffer::PluginConfiguration if self.configuring => Ok(&self.configuration.plugin),
            Buffer::RequestBody => {
                body(&|exchange| &exchange.request)?;
                Ok(exchange().map_or(&[], |exchange| &exchange.request.body))
            }
            Buffer::ResponseBody => {
                body(&|exchange| &exchange.response)?;
                Ok(exchange().map_or(&[], |exchange| &exchange.response.body))
            }
            _ => Err(Status::NotFound),
        }
    }

    fn get_buffer(
        &self,
        number: u32,
        (start, length): (u32, u32),
        to: (u32, u32),
        memory: &Memory<'_>,
    ) -> Called {
        let buffer = self.buffer(number)?;
        let end = start.checked_add(length).ok_or(Status::BadArgument)?;
        let end = buffer.len().min(end as usize);
        let bytes = buffer.get(start as usize..end).unwrap_or_default();
        give(memory, bytes.to_vec(), to)
    }

    fn set_buffer(
        &mut self,
        number: u32,
        (start, length): (u32, u32),
        value: (u32, u32),
        memory: &Memory<'_>,
    ) -> Called {
        let kind = Buffer::of(number).ok_or(Status::BadArgument)?;
        // Is it there now?
        self.buffer(number)?;
        let value = memory.bytes(value.0, value.1)?;
        let exchange = self.here().ok_or(Status::NotFound)?;
        let body = match kind {
            Buffer::RequestBody => &mut exchange.request.body,
            Buffer::ResponseBody => &mut exchange.response.body,
            _ => return Err(Status::BadArgument),
        };
        let start = body.len().min(start as usize);
        let end = body.len().min(start.saturating_add(length as usize));
        let grown = body.len() - (end - start) + value.len();
        if grown > body.len().max(BODY) {
            return Err(Status::InternalFailure);
        }
        body.splice(start..end, value.iter().copied());
        OK
    }

    fn buffer_status(
        &self,
        number: u32,
        (length_at, flags_at): (u32, u32),
        memory: &mut Memory<'_>,
    ) -> Called {
        let length = u32::try_from(self.buffer(number)?.len()).unwrap_or(u32::MAX);
        memory.has(flags_at, 4)?;
        memory.write(length_at, &length.to_le_bytes())?;
        put(memory, flags_at, &[0; 4])
    }

    /// A map that can be read.
    fn map(&self, number: u32) -> Result<Option<&Fields>, Status> {
        let exchange = self.exchanges.get(&self.context());
        let map = Map::of(number).ok_or(Status::BadArgument)?;
        Ok(exchange.and_then(|exchange| {
            Some(match map {
                Map::RequestHeaders => &exchange.request.fields,
                Map::RequestTrailers => &exchange.request.trailers,
                Map::ResponseHeaders => &exchange.response.fields,
                Map::ResponseTrailers => &exchange.response.trailers,
                Map::OfCall => return None,
            })
        }))
    }

    /// A map that can be changed now.
    fn open_map(&mut self, number: u32) -> Result<&mut Fields, Status> {
        let map = Map::of(number).ok_or(Status::BadArgument)?;
        let exchange = self.here().ok_or(Status::BadArgument)?;
        let side = match map {
            Map::RequestHeaders | Map::RequestTrailers => &mut exchange.request,
            Map::ResponseHeaders | Map::ResponseTrailers => &mut exchange.response,
            Map::OfCall => return Err(Status::BadArgument),
        };
        match map {
            Map::RequestHeaders | Map::ResponseHeaders if side.open.fields => Ok(&mut side.fields),
            Map::RequestTrailers | Map::ResponseTrailers if side.open.trailers => {
                Ok(&mut side.trailers)
            }
            _ => Err(Status::BadArgument),
        }
    }

    fn get_pairs(&self, map: u32, to: (u32, u32), memory: &Memory<'_>) -> Called {
        give(
            memory,
            self.map(map)?.map_or_else(Vec::new, Fields::write),
            to,
        )
    }

    fn set_pairs(&mut self, map: u32, from: (u32, u32), memory: &Memory<'_>) -> Called {
        let fields = Fields::read(memory.bytes(from.0, from.1)?);
        *self.open_map(map)? = fields.map_err(|_| Status::SerializationFailure)?;
        OK
    }

    fn map_size(&self, map: u32, at: u32, memory: &mut Memory<'_>) -> Called {
        let size = self.map(map)?.map_or(0, Fields::written);
        put(
            memory,
            at,
            &u32::try_from(size).unwrap_or(u32::MAX).to_le_bytes(),
        )
    }

    fn get_field(&self, map: u32, name: (u32, u32), to: (u32, u32), memory: &Memory<'_>) -> Called {
        let name = memory.bytes(name.0, name.1)?;
        let fields = self.map(map)?.ok_or(Status::BadArgument)?;
        give(
            memory,
            fields.get(name).ok_or(Status::NotFound)?.to_vec(),
            to,
        )
    }

    fn change_field(
        &mut self,
        map: u32,
        name: (u32, u32),
        value: (u32, u32),
        memory: &Memory<'_>,
        change: fn(&mut Fields, &[u8], &[u8]) -> Result<(), crate::Unreadable>,
    ) -> Called {
        let name = memory.bytes(name.0, name.1)?;
        let value = memory.bytes(value.0, value.1)?;
        match change(self.open_map(map)?, name, value) {
            Ok(()) => OK,
            Err(crate::Unreadable) => Err(Status::InternalFailure),
        }
    }

    fn remove_field(&mut self, map: u32, name: (u32, u32), memory: &Memory<'_>) -> Called {
        let name = memory.bytes(name.0, name.1)?;
        self.open_map(map)?.remove(name);
        OK
    }

    fn continue_stream(&mut self, stream: u32) -> Called {
        let exchange = self.here();
        match (stream, exchange) {
            (0, Some(exchange)) => exchange.request.continued = true,
            (1, Some(exchange)) => exchange.response.continued = true,
            (0 | 1, None) => return Err(Status::BadArgument),
            (2 | 3, _) => return Err(Status::Unimplemented),
            _ => return Err(Status::BadArgument),
        }
        OK
    }

    fn close_stream(&mut self, stream: u32) -> Called {
        match (stream, self.here()) {
            (0 | 1, Some(exchange)) => {
                exchange.closed = true;
                OK
            }
            (2 | 3, _) => Err(Status::Unimplemented),
            _ => Err(Status::BadArgument),
        }
    }

    fn local_reply(&mut self, a: &dyn Fn(usize) -> u32, memory: &Memory<'_>) -> Called {
        memory.bytes(a(1), a(2))?;
        let body = memory.bytes(a(3), a(4))?;
        let fields = Fields::read(memory.bytes(a(5), a(6))?);
        let exchange = self.here().ok_or(Status::BadArgument)?;
        let reply = LocalReply {
            status: a(0),
            fields: fields.map_err(|_| Status::SerializationFailure)?,
            body: body.to_vec(),
            // -1 says that there is none.
            grpc_status: Some(a(7)).filter(|status| *status <= 16),
        };
        match exchange.answer(reply) {
            true => OK,
            false => Err(Status::BadArgument),
        }
    }

    fn get_shared(
        &self,
        key: (u32, u32),
        to: (u32, u32),
        cas_at: u32,
        memory: &mut Memory<'_>,
    ) -> Called {
        let key = memory.bytes(key.0, key.1)?;
        let (value, cas) = self.common.value(key).ok_or(Status::NotFound)?;
        memory.has(cas_at, 4)?;
        let given = give(memory, value, to)?;
        memory.write(cas_at, &cas.to_le_bytes())?;
        Ok(given)
    }

    fn set_shared(
        &self,
        key: (u32, u32),
        value: (u32, u32),
        cas: u32,
        memory: &Memory<'_>,
        imagined: bool,
    ) -> Called {
        let key = memory.bytes(key.0, key.1)?;
        let value = memory.bytes(value.0, value.1)?;
        match imagined {
            true => OK,
            false => Ok(self.common.set_value(key, value, cas).into()),
        }
    }

    fn register_queue(&mut self, name: (u32, u32), at: u32, memory: &mut Memory<'_>) -> Called {
        let name = memory.bytes(name.0, name.1)?;
        memory.has(at, 4)?;
        let queue = self.common.register(name)?;
        if !self.queues.contains(&queue) {
            self.queues.push(queue);
        }
        put(memory, at, &queue.to_le_bytes())
    }

    /// Queues of other bindings are not found: what they share, they share with nobody.
    fn resolve_queue(
        &self,
        vm: (u32, u32),
        name: (u32, u32),
        at: u32,
        memory: &mut Memory<'_>,
    ) -> Called {
        let vm = memory.bytes(vm.0, vm.1)?;
        let own = vm.is_empty() || vm == self.names.vm_id.as_bytes();
        let name = memory.bytes(name.0, name.1)?;
        let queue = self.common.resolve(name).filter(|_| own);
        put(memory, at, &queue.ok_or(Status::NotFound)?.to_le_bytes())
    }

    fn enqueue(&self, queue: u32, item: (u32, u32), memory: &Memory<'_>, imagined: bool) -> Called {
        let item = memory.bytes(item.0, item.1)?;
        match imagined {
            true => OK,
            false => Ok(self.common.enqueue(queue, item).into()),
        }
    }

    fn dequeue(&self, queue: u32, to: (u32, u32), memory: &Memory<'_>) -> Called {
        // Nothing is taken that could not be handed over.
        give(memory, Vec::new(), to)?;
        give(memory, self.common.dequeue(queue)?, to)
    }

    fn define_metric(
        &self,
        kind: u32,
        name: (u32, u32),
        at: u32,
        memory: &mut Memory<'_>,
    ) -> Called {
        let name = memory.bytes(name.0, name.1)?;
        memory.has(at, 4)?;
        let metric = self.common.define(kind, name)?;
        put(memory, at, &metric.to_le_bytes())
    }

    fn set_effective(&mut self, context: u32) -> Called {
        let known = context == crate::vm::ROOT || self.exchanges.contains_key(&context);
        self.effective = Some(context).filter(|_| known);
        match known {
            true => OK,
            false => Err(Status::BadArgument),
        }
    }

    fn say_done(&mut self) -> Called {
        let context = self.context();
        match self.here() {
            Some(exchange) if exchange.lingers => {
                exchange.lingers = false;
                self.done.push(context);
                OK
            }
            _ => Err(Status::NotFound),
        }
    }
}

/// Bytes for the guest, once it is sure that it can be told where they are.
fn give(memory: &Memory<'_>, bytes: Vec<u8>, (at, length_at): (u32, u32)) -> Called {
    memory.has(at, 4)?;
    memory.has(length_at, 4)?;
    Ok(Answer::Give {
        bytes,
        at,
        length_at,
    })
}

fn put(memory: &mut Memory<'_>, at: u32, bytes: &[u8]) -> Called {
    memory.write(at, bytes)?;
    OK
}

fn log(
    (level, at, length): (u32, u32, u32),
    memory: &Memory<'_>,
    outside: &mut dyn Outside,
) -> Called {
    let level = Level::of(level).ok_or(Status::BadArgument)?;
    outside.log(level, memory.bytes(at, length)?);
    OK
}

/// Of the last call's answer: there never is one.
fn get_status((code, at, length_at): (u32, u32, u32), memory: &mut Memory<'_>) -> Called {
    let given = give(memory, Vec::new(), (at, length_at))?;
    memory.write(code, &0_u32.to_le_bytes())?;
    Ok(given)
}

/// Checks what a call names in memory; none is made.
fn no_call(
    memory: &Memory<'_>,
    texts: &[(usize, usize)],
    at: u32,
    a: &dyn Fn(usize) -> u32,
) -> Result<(), Status> {
    for (start, length) in texts {
        memory.bytes(a(*start), a(*length))?;
    }
    memory.has(at, 4)?;
    Ok(())
}
