//! Both ends of a TCP socket, from the contexts that know them by the same names
//! (`bpf_sock_ops`, `sk_msg_md`).

/// The socket's own end as source, its peer as destination. `$context` is a pointer to
/// a live context. A macro, because the contexts are different types with like fields.
macro_rules! stream_tuple {
    ($context:expr) => {{
        let context = $context;
        let mut tuple = tidegate_decide::Tuple {
            protocol: tidegate_ebpf_shared::addr::proto::TCP,
            ..Default::default()
        };
        // SAFETY: the kernel hands the program a valid context; the other family's
        // fields read as 0. All are read, always: see `pick_listener`.
        unsafe {
            let is_v4 = (&raw const (*context).family).read_volatile() == $crate::addr::AF_INET;
            let local_v4 = (&raw const (*context).local_ip4).read_volatile();
            let remote_v4 = (&raw const (*context).remote_ip4).read_volatile();
            let local_v6 = $crate::addr::context_words(&raw const (*context).local_ip6);
            let remote_v6 = $crate::addr::context_words(&raw const (*context).remote_ip6);
            if is_v4 {
                $crate::addr::set_v4(&mut tuple.src, local_v4);
                $crate::addr::set_v4(&mut tuple.dst, remote_v4);
            } else {
                $crate::addr::set_v6(&mut tuple.src, local_v6);
                $crate::addr::set_v6(&mut tuple.dst, remote_v6);
            }
            let local_port = (&raw const (*context).local_port).read_volatile();
            let remote_port = (&raw const (*context).remote_port).read_volatile();
            tuple.src_port = (local_port as u16).to_be_bytes();
            // Big-endian in the upper half of the word.
            tuple.dst_port = ((remote_port >> 16) as u16).to_ne_bytes();
        }
        tuple
    }};
}

pub(crate) use stream_tuple;
