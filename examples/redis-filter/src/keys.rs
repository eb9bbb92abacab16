//! Which arguments of a command are keys. What is not listed has none that are known, so no
//! rule with a key allows it: commands whose keys depend on options or scripts among them.

/// Which arguments are keys.
#[derive(Clone, Copy)]
enum Place {
    /// The first.
    One,
    /// The first two.
    Two,
    /// All.
    All,
    /// All but the last.
    AllButLast,
    /// Each other one.
    Pairs,
}

fn place(name: &str) -> Option<Place> {
    Some(match name {
        "APPEND" | "DECR" | "DECRBY" | "DUMP" | "EXPIRE" | "EXPIREAT" | "EXPIRETIME" | "GET"
        | "GETBIT" | "GETDEL" | "GETEX" | "GETRANGE" | "GETSET" | "HDEL" | "HEXISTS" | "HGET"
        | "HGETALL" | "HINCRBY" | "HINCRBYFLOAT" | "HKEYS" | "HLEN" | "HMGET" | "HMSET"
        | "HSCAN" | "HSET" | "HSETNX" | "HSTRLEN" | "HVALS" | "INCR" | "INCRBY" | "INCRBYFLOAT"
        | "LINDEX" | "LINSERT" | "LLEN" | "LPOP" | "LPOS" | "LPUSH" | "LPUSHX" | "LRANGE"
        | "LREM" | "LSET" | "LTRIM" | "PERSIST" | "PEXPIRE" | "PFADD" | "PSETEX" | "PTTL"
        | "PUBLISH" | "RPOP" | "RPUSH" | "RPUSHX" | "SADD" | "SCARD" | "SET" | "SETBIT"
        | "SETEX" | "SETNX" | "SETRANGE" | "SISMEMBER" | "SMEMBERS" | "SMISMEMBER" | "SPOP"
        | "SRANDMEMBER" | "SREM" | "SSCAN" | "STRLEN" | "TTL" | "TYPE" | "XACK" | "XADD"
        | "XDEL" | "XLEN" | "XRANGE" | "XREVRANGE" | "ZADD" | "ZCARD" | "ZCOUNT" | "ZINCRBY"
        | "ZRANGE" | "ZRANGEBYSCORE" | "ZRANK" | "ZREM" | "ZREVRANGE" | "ZSCORE" => Place::One,
        "LMOVE" | "RENAME" | "RENAMENX" | "RPOPLPUSH" | "SMOVE" => Place::Two,
        "DEL" | "EXISTS" | "MGET" | "PFCOUNT" | "PFMERGE" | "SDIFF" | "SDIFFSTORE" | "SINTER"
        | "SINTERSTORE" | "SSUBSCRIBE" | "SUBSCRIBE" | "SUNION" | "SUNIONSTORE"
        | "SUNSUBSCRIBE" | "TOUCH" | "UNLINK" | "UNSUBSCRIBE" | "WATCH" => Place::All,
        "BLPOP" | "BRPOP" | "BZPOPMAX" | "BZPOPMIN" => Place::AllButLast,
        "MSET" | "MSETNX" => Place::Pairs,
        _ => return None,
    })
}

/// Is it known which arguments of a command are keys?
pub(crate) fn are_known(name: &str) -> bool {
    place(name).is_some()
}

/// The keys of a command (channels, for those about channels); `None` if they are not known.
pub(crate) fn of<'a>(name: &str, arguments: &[&'a [u8]]) -> Option<Vec<&'a [u8]>> {
    let given = arguments.get(1..).unwrap_or_default();
    let keys = match place(name)? {
        Place::One => given.get(..1)?.to_vec(),
        Place::Two => given.get(..2)?.to_vec(),
        Place::All => given.to_vec(),
        Place::AllButLast => given.split_last()?.1.to_vec(),
        Place::Pairs => given.iter().step_by(2).copied().collect(),
    };
    Some(keys)
}
