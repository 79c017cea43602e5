# Each way to send something to somewhere else than the sandbox itself.
import os, socket, struct

GATEWAY, PUBLIC, NEIGHBOUR, HOST = '198.18.0.1', '93.184.215.14', '198.51.100.2', '198.51.100.1'
PUBLIC6, NEIGHBOUR6, HOST6 = '2606:2800:21f:cb07::1', '2001:db8::2', '2001:db8::1'

def tcp(address, port, family=socket.AF_INET):
    with socket.socket(family) as s:
        s.settimeout(5)
        s.connect((address, port))

def udp(address, port, data=b'out', family=socket.AF_INET, options=()):
    with socket.socket(family, socket.SOCK_DGRAM) as s:
        for option in options:
            s.setsockopt(*option)
        s.sendto(data, (address, port))

def raw(protocol, address, data, family=socket.AF_INET, header=False):
    with socket.socket(family, socket.SOCK_RAW, protocol) as s:
        if header:
            s.setsockopt(socket.IPPROTO_IP, socket.IP_HDRINCL, 1)
        s.sendto(data, (address, 0))

def fast_open(address):
    with socket.socket() as s:
        s.settimeout(5)
        s.sendto(b'out', socket.MSG_FASTOPEN, (address, 80))

def checksum(data):
    total = sum(struct.unpack(f'>{len(data) // 2}H', data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return 0xffff - total

def echo(kind):
    data = struct.pack('>BBHHH', kind, 0, 0, 7, 1)
    return data[:2] + struct.pack('>H', checksum(data)) + data[4:]

def ip(protocol, destination, payload, source='198.18.0.3', place=0):
    addresses = socket.inet_aton(source) + socket.inet_aton(destination)
    header = struct.pack('>BBHHHBBH', 0x45, 0, 20 + len(payload), 7, place, 64, protocol, 0) + addresses
    return header[:10] + struct.pack('>H', checksum(header)) + header[12:] + payload

def ip6(following, payload, destination=PUBLIC6):
    own, other = (socket.inet_pton(socket.AF_INET6, a) for a in ('fd63:6f66:6665::3', destination))
    return struct.pack('>IHBB', 6 << 28, len(payload), following, 64) + own + other + payload

def datagram(data=b'out'):
    return struct.pack('>HHHH', 5000, 53, 8 + len(data), 0) + data

MAC = bytes.fromhex(open('/sys/class/net/eth0/address').read().strip().replace(':', ''))
GATEWAY_MAC = bytes.fromhex('026366000001')

def frame(kind, payload, to=GATEWAY_MAC):
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as s:
        s.bind(('eth0', 0))
        s.send((to + MAC + struct.pack('>H', kind) + payload).ljust(60, b'\0'))

def query(name):
    labels = b''.join(bytes([len(label)]) + label.encode() for label in name.split('.'))
    return struct.pack('>HHHHHH', 7, 0x100, 1, 0, 0, 0) + labels + b'\0\0\1\0\1'

def ask(over_tcp):
    with socket.socket(type=socket.SOCK_STREAM if over_tcp else socket.SOCK_DGRAM) as s:
        s.settimeout(5)
        s.connect((GATEWAY, 53))
        message = query('example.com')
        s.send(struct.pack('>H', len(message)) + message if over_tcp else message)
        return s.recv(512)

def arp(target, sender='198.18.0.3'):
    addresses = MAC + socket.inet_aton(sender) + bytes(6) + socket.inet_aton(target)
    return struct.pack('>HHBBH', 1, 0x800, 6, 4, 1) + addresses

SIX, ALL = socket.AF_INET6, b'\xff' * 6
BROADCAST = [(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)]
syn = struct.pack('>HHIIHHHH', 5000, 80, 7, 0, 0x5002, 1000, 0, 0)
synack = struct.pack('>HHIIHHHH', 80, 5000, 7, 8, 0x5012, 1000, 0, 0)
TRIES = [
    ('tcp to a public address', lambda: tcp(PUBLIC, 443)),
    ('tcp to a private address', lambda: tcp('10.0.0.1', 80)),
    ('tcp to the metadata address', lambda: tcp('169.254.169.254', 80)),
    ('tcp to the loopback of the host', lambda: tcp('198.18.0.2', 22)),
    ('tcp to another port of the gateway', lambda: tcp(GATEWAY, 80)),
    ('tcp to the address of the host', lambda: tcp(HOST, 22)),
    ('tcp to a neighbour of the host', lambda: tcp(NEIGHBOUR, 80)),
    ('tcp with data in its first packet', lambda: fast_open(PUBLIC)),
    ('tcp6 to a public address', lambda: tcp(PUBLIC6, 443, SIX)),
    ('tcp6 to the address of the host', lambda: tcp(HOST6, 22, SIX)),
    ('tcp6 to a neighbour of the host', lambda: tcp(NEIGHBOUR6, 80, SIX)),
    ('tcp6 by NAT64', lambda: tcp('64:ff9b::5db8:d70e', 80, SIX)),
    ('tcp6 to a mapped address', lambda: tcp('::ffff:93.184.215.14', 80, SIX)),
    ('tcp without a kernel', lambda: frame(0x800, ip(6, PUBLIC, syn))),
    ('a second packet of no connection', lambda: frame(0x800, ip(6, PUBLIC, synack))),
    ('udp to a resolver', lambda: udp(PUBLIC, 53, query('example.com'))),
    ('udp of QUIC', lambda: udp(PUBLIC, 443, b'\xc0' + bytes(1199))),
    ('udp to all', lambda: udp('255.255.255.255', 67, bytes(240), options=BROADCAST)),
    ('udp to all of the link', lambda: udp('198.18.255.255', 137, options=BROADCAST)),
    ('udp to a group', lambda: udp('224.0.0.251', 5353)),
    ('udp of 65507 bytes', lambda: udp(PUBLIC, 9, bytes(65507))),
    ('udp6 to a public address', lambda: udp(PUBLIC6, 53, family=SIX)),
    ('udp6 to a group', lambda: udp('ff02::fb%eth0', 5353, family=SIX)),
    ('udp6 of 60000 bytes', lambda: udp(NEIGHBOUR6, 9, bytes(60000), SIX)),
    ('a name by udp', lambda: ask(False)),
    ('a name by tcp', lambda: ask(True)),
    ('an echo', lambda: raw(1, PUBLIC, echo(8))),
    ('an echo to a neighbour', lambda: raw(1, NEIGHBOUR, echo(8))),
    ('an echo by icmp6', lambda: raw(58, NEIGHBOUR6, echo(128), SIX)),
    ('a timestamp by icmp', lambda: raw(1, PUBLIC, echo(13) + bytes(12))),
    ('a redirect by icmp', lambda: raw(1, PUBLIC, echo(5))),
    ('GRE', lambda: raw(47, PUBLIC, bytes(20))),
    ('SCTP', lambda: raw(132, PUBLIC, bytes(28))),
    ('IP in IP', lambda: raw(4, PUBLIC, ip(17, NEIGHBOUR, datagram()))),
    ('IGMP', lambda: raw(2, '224.0.0.22', bytes(16))),
    ('a foreign source address', lambda: raw(255, PUBLIC, ip(17, PUBLIC, datagram(), HOST), header=True)),
    ('a foreign source in a frame', lambda: frame(0x800, ip(17, PUBLIC, datagram(), HOST))),
    ('a frame to all', lambda: frame(0x800, ip(17, NEIGHBOUR, datagram()), ALL)),
    ('fragments', lambda: [frame(0x800, ip(17, PUBLIC, datagram(bytes(16)), place=p)) for p in (0x2000, 3)]),
    ('ip6 with a routing header', lambda: frame(0x86dd, ip6(43, b'\x11\x02\0\1' + bytes(20) + datagram()))),
    ('arp for a neighbour', lambda: frame(0x806, arp(NEIGHBOUR), ALL)),
    ('arp of a foreign address', lambda: frame(0x806, arp(NEIGHBOUR, HOST), ALL)),
    ('a frame of another kind', lambda: frame(0x88cc, bytes(46), bytes.fromhex('0180c200000e'))),
    ('a frame with a tag', lambda: frame(0x8100, b'\0\1\x08\0' + ip(17, PUBLIC, datagram()))),
]
for name, send in TRIES:
    try:
        print('tried', name, send())
    except OSError as error:
        print('tried', name, error)
# The stack handles frames in order: with this answer it has handled all of them.
assert ask(False)[3] & 15 == 5
