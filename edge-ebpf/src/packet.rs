//! Cursor parser: Ethernet, VLAN and QinQ, IPv4, IPv6 with extension headers, TCP, UDP, ICMP.
