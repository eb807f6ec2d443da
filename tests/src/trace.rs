//! The writes to the kernel's network tables in a trace of strace.

/// The kinds of the messages that one line of a trace sends, as far as they write.
pub(crate) fn writes_in(line: &str) -> impl Iterator<Item = &str> {
    let kinds = line.split("nlmsg_type=").skip(1);
    let kinds = kinds.map(|rest| rest.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_').next());
    kinds.flatten().filter(|kind| is_write(kind))
}

/// strace names the kinds of a socket it can find in the kernel's list; one that is not bound yet is not in it, and then there is
/// only a number. In linux/rtnetlink.h each object has four, from 16 on: NEW, DEL, GET, SET.
fn is_write(kind: &str) -> bool {
    let number = kind.strip_prefix("0x").and_then(|digits| u32::from_str_radix(digits, 16).ok());
    match number {
        Some(number) => (16..128).contains(&number) && number % 4 != 2,
        None => ["RTM_NEW", "RTM_DEL", "RTM_SET"].iter().any(|write| kind.starts_with(write)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_message_of_a_batch_counts_as_a_write_and_a_dump_as_none() {
        let batch = "12 sendto(9<NETLINK:[ROUTE:7]>, [[{nlmsg_len=52, nlmsg_type=RTM_NEWNEIGH, nlmsg_flags=NLM_F_REQUEST}, \
                     {}], [{nlmsg_len=44, nlmsg_type=RTM_DELROUTE, nlmsg_flags=0}, {}]], 96, 0, NULL, 0) = 96";
        assert_eq!(writes_in(batch).collect::<Vec<_>>(), ["RTM_NEWNEIGH", "RTM_DELROUTE"]);
        let dump =
            "12 sendto(9<NETLINK:[ROUTE:7]>, [{nlmsg_len=40, nlmsg_type=RTM_GETROUTE, nlmsg_flags=0}, {}], 40) = 40";
        assert_eq!(writes_in(dump).count(), 0);
        let unbound = "1 sendto(3<NETLINK:[7]>, [[{nlmsg_len=36, nlmsg_type=0x1c /* NLMSG_??? */, nlmsg_flags=1}, \"\\x02\"], \
                       [{nlmsg_len=36, nlmsg_type=0x1e /* NLMSG_??? */, nlmsg_flags=1}, \"\\x02\"]], 72, 0, NULL, 0) = 72";
        assert_eq!(writes_in(unbound).collect::<Vec<_>>(), ["0x1c"]);
    }
}
