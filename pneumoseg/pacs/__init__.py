"""Results for a PACS: a folder of DICOM objects, and a service that receives images and sends results."""
