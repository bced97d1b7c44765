//! Bundles: one transport for several m-lines (RFC 9143).

use super::*;

/// A description of a bundle: audio and video, each with a port.
fn bundle(at: SocketAddr, group: &str, [audio, video]: [u16; 2]) -> String {
    format!(
        "{}a=group:BUNDLE {group}\r\n\
         m=audio {audio} RTP/AVP 0\r\na=mid:a\r\na=rtcp-mux\r\n\
         m=video {video} RTP/AVP 96\r\na=mid:v\r\na=rtcp-mux\r\na=rtpmap:96 VP8/90000\r\n",
        head(at.ip())
    )
}

#[test]
fn a_bundle_has_media_when_its_first_m_line_is_refused_later() {
    for mode in ["relay", "pinhole"] {
        let tag = format!("mbun{}", &mode[..1]);
        let world = World::raise_with(&tag, |config| config.media(mode, "50000-50199"));
        if mode == "pinhole" {
            outside_knows_the_way(&world.lab, Site::Fabrikam);
        }
        let mut call = world.call(End::Outside, false);
        let (outside, inside) =
            (world.outside_end(false, 48_000, 1), world.inside_end(false, 48_002, 2));
        let (a, b) = (outside.address().unwrap(), inside.address().unwrap());
        let (here, there) = (a.port(), b.port());
        let offer = bundle(a, "a v", [here, here + 10]);
        let [seen, got] =
            call.exchange(End::Outside, &offer, &bundle(b, "a v", [there; 2])).unwrap();
        let [to_inside, to_outside] = [&got, &seen].map(|text| media_address(text).unwrap());
        let mut talk = Talk { call, outside, inside, to_inside, to_outside };
        talk.both_ways(&world);
        // All of it is at one port now; the answer takes the video alone.
        let offer = bundle(a, "a v", [here; 2]);
        let answer = bundle(b, "v", [0, there]);
        let [seen, got] = talk.call.exchange(End::Outside, &offer, &answer).unwrap();
        for (text, at, audio) in [(seen, to_outside, to_outside.port()), (got, to_inside, 0)] {
            assert!(text.contains(&format!("m=video {} ", at.port())), "{mode}: {text}");
            assert!(text.contains(&format!("m=audio {audio} ")), "{mode}: {text}");
        }
        talk.both_ways(&world);
        assert_eq!(world.open_flows(), 2, "{mode}: RTP and RTCP by one port");
        talk.call.hang_up(End::Inside).unwrap();
        talk.nothing_comes_in();
    }
}
