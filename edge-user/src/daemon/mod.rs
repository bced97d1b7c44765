//! `edge run`: joins configuration, firewall, proxy, verdicts and control.
