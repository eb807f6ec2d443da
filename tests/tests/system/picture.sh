# All that an agent may change on a machine, in lines that compare.

# Docker's bridge has a new address each time it is made.
bridge=$(cat /sys/class/net/docker0/address)

{
    for family in -4 -6; do
        ip -o $family address | sed -E 's/^[0-9]+: /address /'
        ip $family rule | sed 's/^/rule /'
        ip -o $family route show table all | grep -v '^anycast ' | sort | sed 's/^/route /'
        ip -o $family neighbour show nud permanent | sed 's/^/neighbour /'
    done
    ip -o link | sed -E 's/^[0-9]+: /link /'
    ip nexthop | sed 's/^/nexthop /'
    # Without the groups that the kernel joins, some of them where it forwards.
    bridge fdb | grep -v '^33:33:' | sort | sed 's/^/fdb /'
} | sed "s/$bridge/DOCKER0/g"

# Without counters. A builtin chain that accepts is as good as none: Docker leaves tables of nothing else, and drain removes them.
builtin='(PREROUTING|INPUT|FORWARD|OUTPUT|POSTROUTING)'
for save in iptables-save ip6tables-save; do
    $save | sed -E 's/ \[[0-9]+:[0-9]+\]//' | awk -v save=$save '/^\*/ {table = $1} /^[:-]/ {print save, table, $0}'
done | grep -vE ":$builtin ACCEPT" || true
nft -s list ruleset | awk -v builtin="^$builtin\$" '
    /^table/ {table = $2 " " $3; if ($2 != "ip" && $2 != "ip6") print "nft", table; next}
    /^\t[a-z]/ {part = $2; if (part !~ builtin) print "nft", table, part; next}
    /^\t\t/ {if (part !~ builtin || $0 !~ /policy accept;/) print "nft", table, part, $0}'
for family in ip ip6; do
    if [ -e /proc/net/${family}_tables_names ]; then sed "s/^/legacy $family /" /proc/net/${family}_tables_names; fi
done

getent passwd | sed 's/^/user /'
getent group | sed 's/^/group /'
systemctl list-unit-files --no-legend --no-pager --plain | tr -s ' ' | sed 's/^/unit-file /'
# Without what Docker mounts, some of it for a moment, to see what its storage can do.
systemctl list-units --all --type=service,socket,timer,path,mount --no-legend --no-pager --plain | cut -d' ' -f1 |
    grep -vE '^(var-lib|run)-docker-.*\.mount$' | sed 's/^/unit /'

# Forwarding of IPv6 stays on, and with it what keeps the host's own routes, which are learnt from routers.
sysctl -a 2>/dev/null | grep '^net\.' | grep -vE '^net\.ipv6\.conf\.([^.]+\.forwarding|eth0\.accept_ra) |^net\.netfilter\.nf_conntrack_count ' | sort

# Without what is named anew at each start of a unit and of Docker.
{
    find / -xdev -printf 'file %p %y %u %m %l\n'
    find /run -printf 'file %p %y %u %m %l\n' | grep -vE '^file /run/(docker/libnetwork/|systemd/(journal/streams/|units/invocation:))'
} | sort
# The files with a dash are what useradd and userdel keep of the last change, whosever it was.
find /etc -xdev -type f ! -name '*-' -exec sha256sum {} + | sort -k 2 | sed 's/^/content /'
